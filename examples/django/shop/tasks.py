"""Tasks of the shop."""

try:
    from django.tasks import task
except ImportError:  # before Django 6.0: the package django-tasks
    from django_tasks import task

from shop.models import Order


@task(queue_name="mail", priority=10, takes_context=True)
def confirm(context, order_id):
    """Confirm an order once, however often this runs."""
    order = Order.objects.get(pk=order_id)
    if not order.is_confirmed:
        print("attempt", context.attempt, "writes to", order.address)
        Order.objects.filter(pk=order_id).update(is_confirmed=True)
    return order.address
