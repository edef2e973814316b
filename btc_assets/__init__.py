"""btc_assets: the Bitcoin market as Dagster assets, and an hourly forecast anyone can replay."""

import os

# OpenMP threads that wait should sleep, not spin: measured on two busy cores, a fit takes 4 s instead of 23 s. It is
# read when a library brings its OpenMP runtime into the process, so it is set before anything is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
