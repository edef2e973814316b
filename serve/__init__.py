"""The forecast server: serves the published bundle over HTTP and does not depend on Dagster."""
