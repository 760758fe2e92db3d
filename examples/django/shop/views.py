"""Pages of the shop: one takes orders, the other says what became of one."""

from functools import partial

from django.db import transaction
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_POST

from shop.models import Order
from shop.tasks import confirm


def enqueue_confirmation(order):
    """Enqueue the task, and remember it."""
    order.task = confirm.enqueue(order.pk).id
    order.save(update_fields=["task"])


@require_POST
@transaction.atomic
def buy(request):
    """Save an order; its task is enqueued once the order is committed, so that the task finds it."""
    order = Order.objects.create(address=request.POST["address"])
    transaction.on_commit(partial(enqueue_confirmation, order))
    return JsonResponse({"order": order.pk}, status=201)


def status(_request, order_id):
    """Say what became of the task of an order."""
    order = get_object_or_404(Order, pk=order_id)
    result = confirm.get_result(order.task)
    return JsonResponse(
        {"status": result.status, "attempts": result.attempts, "confirmed": order.is_confirmed}
    )
