"""Tests of the shop: with `inline()` tasks run where they are enqueued, with `private_daemon()` as jobs."""

import os

from bgd.testing import inline, private_daemon
from django.contrib.auth.models import User
from django.db import connection
from django.test import TestCase, TransactionTestCase

from shop.models import Order
from shop.tasks import confirm


class OrderTests(TestCase):
    """What needs no daemon."""

    def test_an_order_is_confirmed_after_the_commit(self):
        with inline() as jobs, self.captureOnCommitCallbacks(execute=True):
            self.client.post("/orders", {"address": "ada@example.org"})

        order = Order.objects.get()
        jobs.assert_submitted("shop.tasks:confirm", order.pk)
        self.assertTrue(order.is_confirmed)

    def test_an_action_of_the_admin_confirms_again(self):
        self.client.force_login(User.objects.create_superuser("root"))
        order = Order.objects.create(address="ada@example.org")

        with inline():
            chosen = {"action": "confirm_again", "_selected_action": [order.pk]}
            self.client.post("/admin/shop/order/", chosen)

        order.refresh_from_db()
        self.assertTrue(order.is_confirmed)


class JobTests(TransactionTestCase):
    """The same with a daemon, whose jobs see only what is committed."""

    def test_an_order_is_confirmed_by_a_job(self):
        os.environ["SHOP_DATABASE"] = str(connection.settings_dict["NAME"])
        settings = {"python": {"preload": ["shop.worker"], "around": "bgd.django:around"}}
        with private_daemon(allowed=["shop.tasks.*"], settings=settings) as daemon, daemon.client() as client:
            number = self.client.post("/orders", {"address": "ada@example.org"}).json()["order"]
            job = client.job(int(Order.objects.get(pk=number).task)).wait(timeout=30)

            self.assertEqual(confirm.get_result(str(job.id)).return_value, "ada@example.org", job.output())
            told = self.client.get(f"/orders/{number}").json()
            self.assertEqual(told, {"status": "SUCCESSFUL", "attempts": 1, "confirmed": True})
