"""Fine-tuning by the concordance correlation coefficient."""
