"""The admin of the shop: an action enqueues a task for each chosen order."""

from django.contrib import admin

from shop.models import Order
from shop.views import enqueue_confirmation


@admin.action(description="Confirm chosen orders again")
def confirm_again(_admin, _request, orders):
    """Enqueue the task for each order."""
    for order in orders:
        enqueue_confirmation(order)


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """The list of orders."""

    list_display = ["address", "is_confirmed", "task"]
    actions = [confirm_again]
