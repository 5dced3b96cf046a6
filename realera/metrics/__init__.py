"""What a set of images is worth: judges and statistics. Nothing here knows about training."""
