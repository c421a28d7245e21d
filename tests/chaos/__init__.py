"""What kills processes: a whole Swell on this machine, clients that write everything down, a plan.

    plan.py      what is asked and when who dies; pure, from a seed
    system.py    the processes: backend, workers, and the model processes that these have
    recorder.py  clients over HTTP that write down what they were told
    remains.py   what the store and the API hold at the end
    crash.py     one run of all of it; poison.py the same for one task that kills
    spike.py     a crowd on workers that the autoscaler launches; bad_days.py what may befall those
    models.py    the models that are served meanwhile

The history that a run leaves is judged by `conformance.history`.
"""
