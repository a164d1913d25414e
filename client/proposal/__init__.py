"""A site file proposed from a label table and some films: known tables, what is in this one, the file's text."""
