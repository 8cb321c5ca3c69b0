"""One file a command; nothing heavy at the top, since --help reads them all."""
