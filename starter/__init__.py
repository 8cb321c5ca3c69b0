"""The command line: what a person or a script says to Knarr, and how it answers."""
