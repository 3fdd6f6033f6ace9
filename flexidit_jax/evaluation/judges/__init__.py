"""Folders of pictures as other judges' tools read them, one a file: what `generate.files` may be beside our own.

Asked of every `Folder`, made of prompts as files hold them (`text.prompt_files`) and the number of pictures of each:

  clips            whether it is of clips
  name(number)     of a picture's file, below the folder that the judge is told; its ending says the format
  beside(num)      pairs of the name of a file beside pictures 0 .. num - 1 and what it holds

Pictures of a prompt are numbered one after the other.
"""
