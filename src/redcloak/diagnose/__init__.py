"""Why a protection works: the misalignment it makes, what the model then learned, and whether one causes the other."""
