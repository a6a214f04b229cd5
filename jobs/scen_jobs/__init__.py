"""The platform's Ray jobs: `python -m scen_jobs --spec '{"kind": "stream", ...}'`.

See `scen.pipeline.job_spec` for the kinds of jobs, and jobs/README.md.
"""
