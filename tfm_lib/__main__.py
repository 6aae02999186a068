"""`python -m tfm_lib` is the command `tfm`."""

from tfm_lib.commands.app import main

if __name__ == "__main__":
    main()
