"""Tables, plots and pages made of rows of results."""
