"""What a training or a study takes, before it is started."""
