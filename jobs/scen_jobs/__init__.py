"""Entry points of the platform's Ray jobs, run as `python -m scen_jobs.<job>`."""
