"""Run the program ``vaecodec`` as ``python -m vaecodec``.

It is started by its name among the installed programs, as the shell would: the runtime imports no command.
"""

from importlib.metadata import entry_points

if __name__ == "__main__":
    (program,) = entry_points(group="console_scripts", name="vaecodec")
    program.load()()
