"""Jobs: the command `fullconv-batch` scores any number of images, and can be ended and started again at any moment.

    arguments → listing → parts → engine → worker → rows and grids → results/part-*.parquet

line            the options of the command
listing         the images that the arguments name
job             what a job is (job.json), its parts, and which of them are finished
stores          where the results are written: a directory, or a bucket behind fsspec
worker          scores the images of one part, and writes its files: the same code for every engine
engines         give parts to workers: in this process, which scores the images or lets servers score them
ray_engine      gives parts, and sections of large images, to an actor on every node of a Ray cluster
node_worker     the actor: the worker of a node
run_statistics  the counts and times of a run
display         progress, events and the summary

Higher modules import lower ones. A part appears as a whole, with all its rows; its bytes do not depend on the engine.
"""
