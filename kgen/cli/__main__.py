"""`python -m kgen.cli` is `kgen`."""

from kgen.cli.app import main

if __name__ == "__main__":
    main()
