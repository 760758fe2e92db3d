"""What runs inside a job: `bgd_job`, a project of its own, for the job's interpreter need not have bgd."""
