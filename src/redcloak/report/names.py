"""The arms and the score that a verdict speaks of, by name."""

PRIMARY = "identity_zero"  # 0 where no face was found: a protection cannot win by losing faces from the mean
UNTUNED = "untuned"
CLEAN = "clean"
RANDOM_NOISE = "random_noise"
PROTECTED = "protected"
RED_TEAM = "red_team"
