"""Orders of the shop."""

from django.db import models


class Order(models.Model):
    """An order; `task` is the id of the latest task that confirms it."""

    address = models.EmailField()
    is_confirmed = models.BooleanField(default=False)
    task = models.CharField(max_length=20, blank=True)

    def __str__(self):
        return f"order {self.pk} of {self.address}"
