"""Where a workflow meets a database: thin activities, one file a stage, each with its compensation."""
