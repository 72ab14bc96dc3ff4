"""What a test computes, prints and writes: its files, the callbacks that write them, PLDC in `ser test`."""
