"""Container images of workers: code and its packages inside, weights apart.

    sources      which files a model's code consists of, found by reading it
    look         what a model says of itself, in a process of its own
    packing      all that an image has of its models, and where it lies there
    pins         packages with the versions that are installed here
    wheels       Swell itself, as it is installed here, as a wheel
    dockerfile   the Dockerfile as text; pure
    context      the folder that a build sees, and nothing else
    indexes      where pip finds packages here, for the build alone
    engines      docker, podman and buildah
    prepare      makes the environment of a model with needs, while the image is built
    init         the first process of a container

`look`, `prepare` and `init` are run by `python -m`, the last two inside images.
"""
