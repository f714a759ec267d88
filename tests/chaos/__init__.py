"""Chaos on real hosts: real agents, Mosquitto and a client in network namespaces, and faults at random moments.

    python -m tests.chaos --minutes 60 --seed 7 --report docs/results-chaos.md

    __main__   the command              plan      what will happen, drawn from the seed
    run        the loop                 kinds     every kind of fault, in one table
    stage      the cluster              processes, hosts, wires, brokers   how each fault is made and undone
    ears       its beats, as heard      detour, forwarder                  frames late, doubled, out of order
    outcome    what one fault did       report    the figures, as text and as Markdown

What is true comes from the kernel's address events on all hosts and from the client's log, never from an agent.
"""
