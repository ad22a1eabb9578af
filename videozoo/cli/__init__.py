"""The command line: argument parsing and printing; a command imports what it needs when it runs."""
