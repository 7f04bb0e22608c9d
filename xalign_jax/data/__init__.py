"""The rooms that know about text: sources, vocabularies, stores and feeds."""
