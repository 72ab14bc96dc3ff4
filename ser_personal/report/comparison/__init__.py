"""`ser compare`: recipes side by side, their accuracy with intervals beside what they cost."""
