"""Everything that reads text: sources, vocabularies, stores, dictionaries and feeds."""
