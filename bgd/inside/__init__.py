"""What runs inside a job: `bgd_job`, a project of its own, because a job's interpreter need not have bgd."""
