"""What a trial of a study tells beside its parameters: names of Optuna's user attributes."""

FOLDER = "trial.folder"  # name of its run folder below trials/
LAUNCH = "trial.launch"  # who runs it
JOB = "trial.job"  # number of its job in that launch
END = "trial.end"  # how it ended, such as "finished" or "pruned"
SCORE = "trial.score"  # that it ended with; the sweeper tells the study only when the whole batch has ended
EPOCHS = "trial.epochs"  # that it did
ERROR = "trial.error"  # why it failed
