"""`python -m mailflow`: the command line, for where the console script is not on the path."""

from mailflow.cli import main

main()
