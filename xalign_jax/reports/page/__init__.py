"""One page with everything that the probes of a model directory measured and drew: `page.write_page`."""
