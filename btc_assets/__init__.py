"""btc_assets: the Bitcoin market as Dagster assets, and an hourly forecast anyone can replay."""
