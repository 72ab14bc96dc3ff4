"""What all training needs besides a model: checkpoints, exact resumption, interruption."""
