"""The command line: flags, modes, exit codes and what is printed. The only code that prints."""
