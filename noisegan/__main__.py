"""`python -m noisegan` is the same as `noisegan`."""

from noisegan.cli import main

if __name__ == "__main__":
    main()
