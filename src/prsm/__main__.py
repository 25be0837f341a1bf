"""``python -m prsm`` is the ``prsm`` command."""

from prsm.cli.main import main

if __name__ == "__main__":
    main()
