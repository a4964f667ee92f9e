"""Many runs: searches, grids, sweeps, variants, repeats and depths, on one machine or many."""
