"""The forecast server: answers over HTTP from the published bundle, and knows nothing else of the graph."""
