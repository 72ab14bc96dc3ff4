"""What every fit needs beside its model: checkpoints that survive, randomness that resumes, signals, bad losses."""
