"""What every fit needs beside its model: checkpoints, exact resumption, interruption."""
