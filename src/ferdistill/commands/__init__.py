"""One module a group of commands; `cli` puts them together."""
