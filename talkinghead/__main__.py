"""`python -m talkinghead VERB …` does the same as the installed command `talkinghead`."""

from talkinghead.cli.launch import main

if __name__ == "__main__":
    main()
