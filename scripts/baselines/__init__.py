"""What `approx_is` is compared with, each from its paper and alone in its file.

Methods that choose samples (`BatchChooser`): `rs2`, `infobatch`, `selective_backprop`. They leave the optimizer alone.
Methods that change the gradient (`VarianceReduced`): `svrg`, `katyusha`, `scsg`. They leave the loader alone.

`protocol` says what a training loop may rely on.
"""
