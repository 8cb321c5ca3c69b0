"""Where a workflow meets a database: thin activities, one file a stage, each with the compensation that takes it back."""
