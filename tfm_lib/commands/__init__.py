"""The command `tfm`: one thin module for each sub-command.

It uses every package. Begin with `app`, where the sub-commands are listed.
"""
