"""The pages of the documentation site that are made when it is built (`mkdocs.yml`)."""
