"""Loggers for `tinygpt train --log-to NAME`: `tensorboard` and `wandb`, each imported when its name is asked
for.
"""
