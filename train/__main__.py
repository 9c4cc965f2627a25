"""`python -m train` pre-trains: see `train.pretrain`."""

from train.pretrain import main


main()
