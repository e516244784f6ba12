"""The command line: one file per group of commands; what a command needs is imported when it runs."""
