"""Container images of workers, with code and packages but without weights.

    sources      finds the files of a model's code by parsing its imports
    look         loads models in a separate process, for their names, versions and files
    packing      collects the models' files and their paths in the image
    pins         lists packages with the versions that are installed here
    wheels       packs the installed Swell as a wheel
    dockerfile   writes the Dockerfile; pure
    context      writes the build context
    indexes      the package index of this machine, for the build
    engines      runs docker, podman or buildah
    prepare      creates a model's environment while the image is built

`look` and `prepare` are run by `python -m`, the second one inside images.
"""
